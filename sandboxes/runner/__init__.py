"""What runs inside a sandbox as process 1: takes one job from the broker, runs it, hands back what it left.

Stdlib only, and nothing that another module of the broker imports: it is copied into the images as it stands.
"""
