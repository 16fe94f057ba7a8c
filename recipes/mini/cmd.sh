# How training is started. For Slurm, for instance: train_cmd=(srun --gres=gpu:1 --cpus-per-task=8 shala-audio)
train_cmd=(shala-audio)
