# What a cluster needs before the program starts: copy this to slurm/env/NAME.sh, where NAME is the cluster's name
# (scontrol show config | grep ClusterName), or name the file by SURGERY_ENV.

# module purge
# module load gcc/12 openmpi/4.1 hdf5/1.14

# The LibTorch that the nodes have, where it is not the one of the build:
# export LD_LIBRARY_PATH=/opt/venv/lib/python3.12/site-packages/torch/lib:${LD_LIBRARY_PATH:-}

# Open MPI behind srun without PMIx, or another network:
# export SURGERY_LAUNCHER=mpirun SURGERY_MPIRUN_FLAGS="--bind-to none --mca pml ucx"

# Lustre and others without flock:
# export HDF5_USE_FILE_LOCKING=FALSE
