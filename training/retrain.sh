#!/usr/bin/env bash
# Makes a model like tinyhd-m from your own data and teachers: clips, teachers' maps, both parts of the training, and the
# file that ships. Every step can be interrupted; run the same command again and it goes on where it was.
#
#   training/retrain.sh VIDEOS PHOTOS FIXATIONS TEACHER_M TEACHER_S MOBILENET.npz OUT.safetensors
#
# VIDEOS, PHOTOS: folders without labels. FIXATIONS: a folder of data sets of photos with fixations.npz in each.
# TEACHER_M, TEACHER_S: names or paths of models. MOBILENET.npz: see training/backbone.py. PROCESSES=2 (the default)
# processes train side by side; on a GPU machine set it to the number of GPUs.
set -euo pipefail
if [ $# -ne 7 ]; then sed -n '5p' "$0" | cut -c5-; exit 2; fi
videos=$1 photos=$2 fixations=$3 teacher_m=$4 teacher_s=$5 mobilenet=$6 out=$7

data() { python -m training.distill_data "$@"; }
train() { python -m torch.distributed.run --standalone --nproc-per-node "${PROCESSES:-2}" -m training.train "$@"; }

data pack --out packs/video --videos "$videos" --stride 24
data pack --out packs/video2 --videos "$videos" --stride 24 --seed 2
data pack --out packs/photo --photos "$photos"
for folder in "$fixations"/*/; do data pack --out packs/labelled --fixations "$folder"; done
data teach --pack packs/video --name ensemble --every 8 --teacher "$teacher_m" --teacher "$teacher_s"
data teach --pack packs/video2 --name single --every 8 --teacher "$teacher_s"
data teach --pack packs/photo --name single --every 15 --teacher "$teacher_s"
data teach --pack packs/labelled --name single --every 15 --teacher "$teacher_s"
train --config training/configs/embedded.yaml "backbone=$mobilenet"
python -m training.release --model runs/embedded/best.safetensors --pack packs/video --lower 5 --power 1.4 \
  --out runs/embedded/lowered.safetensors
train --config training/configs/embedded_finish.yaml
python -m training.release --model runs/embedded-finish/best.safetensors --pack packs/video --out "$out"
