#!/usr/bin/env bash
# Makes models like tinyhd-clean, tinyhd-m and tinyhd-lite from your own data and teachers: clips, teachers' maps, the
# training, and the files to embed: OUT-clean, OUT, OUT-lite. It can be interrupted; run again, it goes on.
#
#   training/retrain.sh VIDEOS LICENSED SCREENS PHOTOS FIXATIONS TEACHER_M TEACHER_S UNISAL MOBILENET.npz OUT.safetensors
#
# VIDEOS, LICENSED, SCREENS, PHOTOS: folders without labels; tinyhd-clean sees LICENSED and SCREENS, of recorded screens.
# FIXATIONS: a folder of the data sets of photos osie, sun500, eyecrowd, tis, figrim and fiwi with fixations.npz in each.
# TEACHER_M, TEACHER_S: names or paths of models. UNISAL: see training/unisal.py. MOBILENET.npz: see training/backbone.py.
# PROCESSES=2 (the default) processes train side by side; on a GPU machine set it to the number of GPUs.
set -euo pipefail
if [ $# -ne 10 ]; then sed -n '5p' "$0" | cut -c5-; exit 2; fi
videos=$1 licensed=$2 screens=$3 photos=$4 fixations=$5
teacher_m=$6 teacher_s=$7 unisal=$8 mobilenet=$9 out=${10}

data() { python -m training.distill_data "$@"; }
train() { python -m torch.distributed.run --standalone --nproc-per-node "${PROCESSES:-2}" -m training.train "$@"; }

data pack --out packs/video --videos "$videos" --stride 12
data pack --out packs/licensed --videos "$licensed" --stride 6
data pack --out packs/screen --videos "$screens" --stride 12
data pack --out packs/photo --photos "$photos"
data teach --pack packs/video --name ensemble --every 8 --teacher "$teacher_m" --teacher "$teacher_s"
data teach --pack packs/video --name single --every 8 --teacher "$teacher_s"
data teach --pack packs/photo --name single --every 15 --teacher "$teacher_s"
python -m training.unisal --unisal "$unisal" --pack packs/video --videos "$videos"
python -m training.unisal --unisal "$unisal" --pack packs/licensed --videos "$licensed"
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
  --share 0.35 --power 1.1 --pack packs/video --out runs/finetune/released.safetensors
data teach --pack packs/video --name own --every 4 --teacher runs/finetune/released.safetensors
train --config training/configs/clean.yaml "backbone=$mobilenet"
train --config training/configs/clean_finish.yaml
python -m training.release --model runs/clean-finish/best.safetensors --pack packs/video \
  --out "${out%.safetensors}-clean.safetensors"
python -m training.release --model runs/clean-finish/best.safetensors --pack packs/video --lower 4.2 --power 0.85 \
  --out runs/clean-finish/lowered.safetensors
train --config training/configs/m.yaml
python -m training.release --model runs/m/best.safetensors --pack packs/video --out "$out"
for pack in packs/*; do data teach --pack "$pack" --name assistant --every 4 --teacher "$out"; done
train --config training/configs/lite.yaml "narrow=$out"
python -m training.release --model runs/lite/best.safetensors --pack packs/video --out "${out%.safetensors}-lite.safetensors"
