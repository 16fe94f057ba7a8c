# How training and prediction are started; with several GPUs, or by Slurm, for instance:
#   train_cmd=(accelerate launch --config_file configs/accelerate/multi_gpu.yaml -m shala_audio)
#   train_cmd=(srun --gres=gpu:1 --cpus-per-task=8 shala-audio)
train_cmd=(shala-audio)
predict_cmd=(shala-audio)
