"""`ireasoner report`: one self-contained HTML page of one run, or of several laid over each other.

figures.py reads the shards into one number a group and quantity, gallery.py picks groups to show, charts.py turns
numbers into the geometry of a drawing, page.py and templates/ make the page of it. Nothing in it asks the network.
"""
