"""Readers of file formats, one for all who read data: rows of tables of any form, text, members of tars."""
