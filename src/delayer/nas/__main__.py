"""`python -m delayer.nas FOLDER NAME THREADS FUNCTION [MODULE …]`: one worker, as an engine starts it."""

from delayer.nas.worker import main

main()
