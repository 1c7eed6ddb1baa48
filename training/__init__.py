"""What train.py calls: devices and processes, samples, augmentation, the teacher, the log."""
