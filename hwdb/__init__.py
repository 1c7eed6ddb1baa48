"""What is known of the CASIA-HWDB databases: records, characters, numbering, archives, download."""
