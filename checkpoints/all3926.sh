#!/usr/bin/env bash
# Make weights of all 3926 classes from small80.pt: draw, recombine, distil. Run it again to go on.
# They are not shipped; docs/EXPERIMENTS.md, "Weights of all 3926 classes", says why.
#
#     bash checkpoints/all3926.sh TEACHER.onnx REAL FONTS [WORK]
#
# TEACHER.onnx   the network of Xiao et al. 2017, see README.md beside this file
# REAL           real handwriting: hwdb63, hwdb25 (.gnt files), symreal (a tree of digits, letters and
#                signs), scans (a class folder of any name with pictures of any character)
# FONTS          a folder for each typeface of README.md
# WORK           what is made, some 8 GB (default: data/all3926)
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
teacher=$1 real=$2 fonts=$3 work=${4:-data/all3926}
mkdir -p "$work"

# Ordinary and careful writers, half of it copied from typefaces; hasty writers; symbols.
python synthesize_gnt.py --test-writers 0 --writers 56 --hard 0.7 1.6 --small 0.08 --coarse 0.08 \
    --paper 0.1 --fonts "$fonts" --font-share 0.5 --seed 51 --out "$work/s51"
python synthesize_gnt.py --test-writers 0 --writers 32 --hard 1.2 2.2 --small 0.05 --coarse 0.05 \
    --seed 53 --out "$work/s53"
python synthesize_gnt.py --test-writers 0 --writers 100 --classes symbols --hard 0.7 1.6 --small 0.2 \
    --coarse 0.3 --seed 52 --out "$work/s52"
[ -e "$work/r54" ] || python -m training.recombine "$real/hwdb63" "$real/hwdb25" "$real/scans" \
    --count 60000 --seed 54 --out "$work/r54"
python -m synthesis.papers --count 500 --seed 55 --out "$work/none55"

# The shipped weights, with the temperature taken out by which their logits were divided.
python checkpoint.py checkpoints/small80.pt "$work/raw.pt" --temperature 1.718

resume=()
[ ! -e "$work/W1/last.pt" ] || resume=(--resume)
python train.py --data "$work/s51" "$work/s53" "$work/s52" "$real/symreal@2" "$real/hwdb63" \
    --unlabelled "$work/r54" "$real/hwdb63" "$real/hwdb25" "$real/hwdb25" "$real/scans" "$real/scans" \
    --outliers "$work/none55" --teacher "$teacher" --teacher-input scale=200,margin=0 \
    --logit-weight 10 --init-from "$work/raw.pt" --epochs 3 --lr 0.002 --batch-size 128 \
    --val-fraction 0.01 --dropout 0 --label-smoothing 0.05 --weight-decay 0.02 --rotation 5 \
    --shear 0.1 --scale 0.1 --shift 0.03 --elastic 1 --erase 0 --seed 0 --out "$work/W1" "${resume[@]}"
