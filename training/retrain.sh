#!/usr/bin/env bash
# Makes models like tinyhd-m and tinyhd-lite from your own data and teachers: clips, teachers' maps, the training, and the
# files that ship (OUT and OUT-lite). Every step can be interrupted; run the same command again and it goes on.
#
#   training/retrain.sh VIDEOS SCREENS PHOTOS FIXATIONS TEACHER_M TEACHER_S UNISAL MOBILENET.npz OUT.safetensors
#
# VIDEOS, SCREENS, PHOTOS: folders without labels, SCREENS of recorded screens. FIXATIONS: a folder of the data sets of
# photos osie, sun500, eyecrowd, tis, figrim and fiwi with fixations.npz in each. TEACHER_M, TEACHER_S: names or paths of
# models. UNISAL: see training/unisal.py. MOBILENET.npz: see training/backbone.py. PROCESSES=2 (the default) processes
# train side by side; on a GPU machine set it to the number of GPUs.
set -euo pipefail
if [ $# -ne 9 ]; then sed -n '5p' "$0" | cut -c5-; exit 2; fi
videos=$1 screens=$2 photos=$3 fixations=$4 teacher_m=$5 teacher_s=$6 unisal=$7 mobilenet=$8 out=$9

data() { python -m training.distill_data "$@"; }
train() { python -m torch.distributed.run --standalone --nproc-per-node "${PROCESSES:-2}" -m training.train "$@"; }

data pack --out packs/video --videos "$videos" --stride 12
data pack --out packs/screen --videos "$screens" --stride 12
data pack --out packs/photo --photos "$photos"
data teach --pack packs/video --name ensemble --every 8 --teacher "$teacher_m" --teacher "$teacher_s"
data teach --pack packs/video --name single --every 8 --teacher "$teacher_s"
data teach --pack packs/photo --name single --every 15 --teacher "$teacher_s"
python -m training.unisal --unisal "$unisal" --pack packs/video --videos "$videos"
python -m training.unisal --unisal "$unisal" --pack packs/screen --videos "$screens" --pages
for folder in "$fixations"/*/; do
  pack=packs/$(basename "$folder")
  data pack --out "$pack" --fixations "$folder"
  data teach --pack "$pack" --name single --every 15 --teacher "$teacher_s"
  python -m training.unisal --unisal "$unisal" --pack "$pack" --size 96 128
done
train --config training/configs/embedded.yaml "backbone=$mobilenet"
python -m training.release --model runs/embedded/best.safetensors --pack packs/video --lower 5 --power 1.4 \
  --out runs/embedded/lowered.safetensors
train --config training/configs/embedded_finish.yaml
python -m training.release --model runs/embedded-finish/best.safetensors --pack packs/video \
  --out runs/embedded-finish/released.safetensors
train --config training/configs/finetune.yaml
python -m training.release --model runs/finetune/best.safetensors --base runs/embedded-finish/released.safetensors \
  --share 0.35 --power 1.1 --pack packs/video --out "$out"
for pack in packs/*; do data teach --pack "$pack" --name own --every 4 --teacher "$out"; done
train --config training/configs/lite.yaml "narrow=$out"
python -m training.release --model runs/lite/best.safetensors --pack packs/video --out "${out%.safetensors}-lite.safetensors"
