"""What metering costs, measured beside the packages that people would use instead."""
