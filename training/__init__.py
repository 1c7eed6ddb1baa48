"""What train.py calls: devices and processes, augmentation, the teacher."""
