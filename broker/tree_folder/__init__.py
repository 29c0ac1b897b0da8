"""Folders of the host as trees: read without following any link, and written into new ones. Knows no store.

What is there may be changed by others meanwhile. So each step opens one name below a folder that is open already, and
never a link; what was looked at is looked at again when it is read.
"""
