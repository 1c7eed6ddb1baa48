"""What is known of the CASIA-HWDB databases: record, characters, sets, archives, download."""
