"""The commands of ``rdsdk`` that need only the base install, one file each."""
