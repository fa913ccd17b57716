"""The command-line programs: `tfmot-pam`, `tflite-export` and `tflite-benchmark`."""
