#!/usr/bin/env bash
# Make checkpoints/small80.pt from its predecessor: draw handwriting, distil, average.
# Continues when run again. About six hours of one core; drawing takes 15 minutes of two.
#
#     bash lab/small80.sh TEACHER.onnx REAL HANDS FONTS DIGITS [WORK]
#
# TEACHER.onnx   the network of Xiao et al. 2017, see checkpoints/README.md
# REAL           real handwriting: hwdb63 and hwdb25 (.gnt files of training writers), symbols (a
#                tree of digits, letters and signs), hardpen and tablets (unlabelled characters, in
#                one class folder of any name)
# HANDS          pen trajectories of two writers, see synthesis/trajectories.py
# FONTS          one folder for each typeface of checkpoints/README.md
# DIGITS         output of lab/digits.py
# WORK           output, about 6 GB (default: data/small80)
#
# The predecessor's own recipe is lab/small80.sh and checkpoints/small80.sh in the history.
set -euo pipefail
if [ $# -lt 5 ]; then
    sed -n '2,17s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
teacher=$1 real=$2 hands=$3 fonts=$4 digits=$5 work=${6:-data/small80}
mkdir -p "$work"

draw() { # NAME OPTION...
    local name=$1
    shift
    python synthesize_gnt.py --test-writers 0 --out "$work/$name" "$@"
}
draw symbols --classes symbols --writers 60 --seed 105 --hard 0.6 1.7 --small 0.2 --coarse 0.2 --neat 0.2
draw hands --hands "$hands" --writers 44 --seed 101 --hard 0.5 1.7 --pens 0.3 --small 0.08 --coarse 0.08
draw printed --writers 36 --seed 102 --hard 0.5 1.7 --pens 0.3 --small 0.1 --coarse 0.08 --neat 0.12 \
    --fonts "$fonts" --font-share 0.45
draw hasty --writers 10 --seed 103 --hard 1.2 2.2 --pens 0.2 --small 0.05 --coarse 0.05
draw validation --hands "$hands" --writers 2 --seed 900 --hard 0.8 1.2
python -m lab.papers --count 300 --seed 107 --out "$work/none"

# The predecessor without its temperature and class prior; a shallow clone lacks it. The first run
# began from its mean with a copy that had seen 0.89 million views of the same kind (run "copy").
before=85966bd9d1e64033a3e5bab922d06ae946dcb997
git cat-file -e $before 2> /dev/null || git fetch --unshallow
git cat-file blob $before > "$work/before.pt"
python checkpoint.py "$work/before.pt" "$work/raw.pt" --temperature 1.9084 --class-prior symbols 2.515

# train NAME OPTION...: what the runs share; an interrupted run continues.
train() {
    local name=$1 resume=()
    shift
    [ ! -e "$work/$name/last.pt" ] || resume=(--resume)
    python train.py "$@" --teacher "$teacher" --teacher-scale 200 --teacher-margin 0 --logit-weight 10 \
        --dropout 0 --label-smoothing 0.05 --weight-decay 0.02 --shift 0.03 --coarse 0.1 \
        --rotation 8 --shear 0.15 --scale 0.12 --elastic 1.5 --val-data "$work/validation" \
        --batch-size 512 --compile --epochs 1 --out "$work/$name" "${resume[@]}"
}
train copy --init-from "$work/raw.pt" --lr 0.001 --leftovers 0.15 --seed 8 \
    --data "$work/hands@4" "$work/printed" "$work/hasty@2" "$work/symbols@3" \
    "$real/symbols@5" "$real/hwdb63@4" --outliers "$work/none@3" \
    --unlabelled "$real/hwdb25@5" "$real/hardpen@14" "$real/tablets@16"
python checkpoint.py "$work/copy/last.pt" "$work/start.pt" --average "$work/raw.pt" 0.5
train first --init-from "$work/start.pt" --lr 0.0012 --leftovers 0.2 --seed 11 \
    --data "$work/hands" "$work/printed" "$work/hasty" "$work/symbols@3" "$digits@2" \
    "$real/symbols@5" "$real/hwdb63@4" --outliers "$work/none@5" \
    --unlabelled "$real/hwdb25@5" "$real/hardpen@10" "$real/tablets@12"
train second --init-from "$work/first/last.pt" --lr 0.0009 --leftovers 0.15 --seed 12 \
    --data "$work/hands" "$work/printed" "$work/symbols" "$digits" "$real/symbols@2" \
    "$real/hwdb63@2" --outliers "$work/none" \
    --unlabelled "$real/hwdb25@2" "$real/hardpen@4" "$real/tablets@5"
python checkpoint.py "$work/second/last.pt" "$work/small80.pt" --average "$work/start.pt" 0.8
