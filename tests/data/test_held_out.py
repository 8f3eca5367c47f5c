"""Names by which samples are held out."""

from unimo.data.held_out import names


def test_a_name_is_that_of_the_file_unless_two_files_share_it():
    assert names(["train2017/1.jpg", "b/2.png", "3"]) == ["1", "2", "3"]
    alike = ["cats/1.jpg", "dogs/1.jpg", "dogs/2.jpg"]
    assert names(alike) == alike
    numbered = ["part.parquet:0", "part.parquet:1"]
    assert names(numbered) == numbered
