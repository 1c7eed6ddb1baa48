"""The CASIA-HWDB databases: record format, characters, official sets, archives, download."""
