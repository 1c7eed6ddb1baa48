"""What only train.py uses: augmentation, the teacher, the log."""
