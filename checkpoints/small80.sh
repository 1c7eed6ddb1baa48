#!/usr/bin/env bash
# Make small80.pt from the weights shipped before it (3755 classes): draw, recombine, distil.
# Run it again to go on. Some three hours of training on one core, after one of drawing and labelling.
#
#     bash checkpoints/small80.sh TEACHER.onnx REAL FONTS [WORK]
#
# TEACHER.onnx   the network of Xiao et al. 2017, see README.md beside this file
# REAL           real handwriting: hwdb63, hwdb25 (.gnt files), symreal (a tree of digits, letters and
#                signs), scans (a class folder of any name with pictures of any character)
# FONTS          a folder for each typeface of README.md
# WORK           what is made, some 10 GB (default: data/small80)
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
teacher=$1 real=$2 fonts=$3 work=${4:-data/small80}
mkdir -p "$work"

# Ordinary and careful writers, half of it copied from typefaces; hasty writers; symbols.
python synthesize_gnt.py --test-writers 0 --writers 56 --hard 0.7 1.6 --small 0.08 --coarse 0.08 \
    --paper 0.1 --fonts "$fonts" --font-share 0.5 --seed 51 --out "$work/s51"
python synthesize_gnt.py --test-writers 0 --writers 32 --hard 1.2 2.2 --small 0.05 --coarse 0.05 \
    --seed 53 --out "$work/s53"
python synthesize_gnt.py --test-writers 0 --writers 100 --classes symbols --hard 0.7 1.6 --small 0.2 \
    --coarse 0.3 --seed 52 --out "$work/s52"
# Other pens.
python synthesize_gnt.py --test-writers 0 --writers 36 --hard 0.7 1.6 --pens 0.7 --coarse 0.15 \
    --small 0.1 --paper 0.1 --fonts "$fonts" --font-share 0.4 --seed 61 --out "$work/s61"
python synthesize_gnt.py --test-writers 0 --writers 32 --hard 1.0 2.2 --pens 0.7 --coarse 0.1 \
    --small 0.1 --seed 62 --out "$work/s62"
[ -e "$work/r54" ] || python -m training.recombine "$real/hwdb63" "$real/hwdb25" "$real/scans" \
    --count 60000 --seed 54 --out "$work/r54"
python -m synthesis.papers --count 500 --seed 55 --out "$work/none55"

# The weights shipped before, with the temperature taken out by which their logits were divided.
git cat-file blob 241c1bde0210c9096657ea86e43a26dd865a281a > "$work/before.pt"
python checkpoint.py "$work/before.pt" "$work/raw.pt" --temperature 1.718

# train NAME OPTION...: what the runs share; a run that was interrupted goes on.
train() {
    local name=$1 resume=()
    shift
    [ ! -e "$work/$name/last.pt" ] || resume=(--resume)
    python train.py "$@" --outliers "$work/none55" --batch-size 128 --val-fraction 0.01 \
        --teacher "$teacher" --teacher-input scale=200,margin=0 --logit-weight 10 --dropout 0 \
        --label-smoothing 0.05 --weight-decay 0.02 --rotation 5 --shear 0.1 --scale 0.1 --shift 0.03 \
        --elastic 1 --erase 0 --out "$work/$name" "${resume[@]}"
}
train 1 --data "$work/s51" "$work/s53" "$work/s52" "$real/symreal@2" "$real/hwdb63" \
    --unlabelled "$work/r54" "$real/hwdb63" "$real/hwdb25" "$real/hwdb25" "$real/scans" "$real/scans" \
    --init-from "$work/raw.pt" --epochs 3 --lr 0.002 --seed 0
train 2 --data "$work/s51" "$work/s61" "$work/s62" "$work/s52" "$real/symreal@2" "$real/hwdb63@3" \
    --unlabelled "$work/r54" "$real/hwdb25" "$real/scans" --init-from "$work/1/last.pt" \
    --epochs 3 --lr 0.002 --seed 4
