"""`python -m delayer.nas FOLDER NAME THREADS`: one worker, as an engine starts it."""

from delayer.nas.worker import main

main()
