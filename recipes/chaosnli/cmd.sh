# How commands are started: training; what else a GPU helps (features, predictions, classifiers); and all the rest.
# What the environment says counts. With several GPUs, or by Slurm, for instance, before run.sh:
#   export train_cmd="accelerate launch --config_file configs/accelerate/multi_gpu.yaml -m shala_audio"
#   export train_cmd="srun --gres=gpu:1 --cpus-per-task=8 shala-audio"; export predict_cmd="$train_cmd"
export train_cmd="${train_cmd:-shala-audio}" predict_cmd="${predict_cmd:-shala-audio}" cpu_cmd="${cpu_cmd:-shala-audio}"
