"""What the models that come with the program are not. Separate, so that asking imports nothing."""

DISCLAIMER = "Research use only. Not a medical device; not for diagnosis or treatment decisions."
