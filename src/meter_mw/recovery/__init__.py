"""What brings counts back: closings sent again, requests of the dead ended, lost data replayed."""
