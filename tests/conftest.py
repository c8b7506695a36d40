"""What all tests share."""

from hypothesis import settings

# A slow example on a busy machine is no failure.
settings.register_profile("nasflow", deadline=None)
settings.load_profile("nasflow")
