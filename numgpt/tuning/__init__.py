"""Fine-tuning and alignment: what a pre-trained model is taught afterwards, and from which files."""
