"""The one trainer: optimizer, schedule, task, checkpoints, averages. `train.train` is the way in."""
