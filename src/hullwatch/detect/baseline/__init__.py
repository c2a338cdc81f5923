"""What is normal here: a profile of each image's behaviour, and what is outside it."""
