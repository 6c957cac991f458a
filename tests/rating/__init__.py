"""Rating: properties, and the worked examples of public billing documentation."""
