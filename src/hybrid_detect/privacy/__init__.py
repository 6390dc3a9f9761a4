"""What may leave the device and in which form: filters, metadata, policy, consent."""
