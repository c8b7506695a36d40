"""The search alone, for anything that has choices and metrics: here decision trees, error against size. No torch.

python examples/search_only.py
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

from nasflow import Choice, Evaluate, Objective, Space, Study, nsga2, run

SPACE = Space(
    (
        Choice("max_depth", (3, 4, 5, 6, 8, 10, 12), ordered=True),
        Choice("min_samples_leaf", (1, 2, 4, 8, 16, 32), ordered=True),
        Choice("criterion", ("gini", "entropy")),
    )
)
OBJECTIVES = (Objective("error"), Objective("nodes", limit=250))

images, labels = load_digits(return_X_y=True)
x, x_validation, y, y_validation = train_test_split(images, labels, test_size=0.4, random_state=0)


def train(trial):
    tree = DecisionTreeClassifier(**trial.point, random_state=0).fit(x, y)
    return {"error": 1 - tree.score(x_validation, y_validation), "nodes": tree.tree_.node_count}


def main():
    study = Study(
        SPACE, OBJECTIVES
    )  # in memory; with nasflow.open_record(...) it is kept and goes on after a kill
    outcome = run(study, nsga2(SPACE, OBJECTIVES, seed=0), Evaluate(train), trials=50, batch=5)
    print(f"{outcome.message} of {SPACE.size} possible; on the front:")
    for trial in sorted(study.front, key=lambda trial: trial.metrics["nodes"]):
        print(f"{trial.metrics['nodes']:4.0f} nodes, {trial.metrics['error']:6.1%} wrong: {trial.point}")


if __name__ == "__main__":
    main()
