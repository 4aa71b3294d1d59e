"""What people look at: summaries of months, the pages made of them, trends, warnings about odd months, the catalog."""
