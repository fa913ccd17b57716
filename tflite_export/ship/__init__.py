"""What lies beside the files: the folder, its manifest, the model card."""
