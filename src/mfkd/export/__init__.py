"""The student that leaves: files of every usual form, proved equal, and how fast they are."""
