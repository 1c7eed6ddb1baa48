#!/usr/bin/env bash
# Make checkpoints/small80.pt from its predecessor: draw data, distil on a GPU, then on one core.
# Continues when run again. Six minutes of one H200, four hours of one core; drawing takes an hour.
# Uses options that were removed later, so run it in the commit that it was written for:
#
#     git worktree add ../small80 41f3382 && cp lab/small80.sh ../small80/checkpoints
#     bash ../small80/checkpoints/small80.sh TEACHER.onnx REAL FONTS [WORK]
#
# TEACHER.onnx   the network of Xiao et al. 2017, see checkpoints/README.md
# REAL           real handwriting: hwdb63, hwdb25 (.gnt files), symreal (a tree of digits, letters and
#                signs), scans (a class folder of any name with pictures of any character)
# FONTS          one folder for each typeface of checkpoints/README.md
# WORK           output, about 10 GB (default: data/small80)
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
teacher=$1 real=$2 fonts=$3 work=${4:-data/small80}
mkdir -p "$work"

# draw SEED WRITERS OPTION...: synthetic writers, seen by their seed.
draw() {
    local seed=$1 writers=$2
    shift 2
    python synthesize_gnt.py --test-writers 0 --writers "$writers" --seed "$seed" --out "$work/s$seed" "$@"
}
# Ordinary and careful writers, half of it copied from typefaces; hasty writers; symbols.
draw 51 56 --hard 0.7 1.6 --small 0.08 --coarse 0.08 --paper 0.1 --fonts "$fonts" --font-share 0.5
draw 81 60 --hard 0.7 1.6 --small 0.12 --coarse 0.08 --paper 0.1 --fonts "$fonts" --font-share 0.5
draw 53 32 --hard 1.2 2.2 --small 0.05 --coarse 0.05
draw 52 100 --classes symbols --hard 0.7 1.6 --small 0.2 --coarse 0.3
# Other pens; small writing of the characters of at most five strokes and 百, 零.
draw 61 36 --hard 0.7 1.6 --pens 0.7 --coarse 0.15 --small 0.1 --paper 0.1 --fonts "$fonts" --font-share 0.4
draw 62 32 --hard 1.0 2.2 --pens 0.7 --coarse 0.1 --small 0.1
python -c 'from hwdb.characters import LEVEL1
from synthesis.templates import stroke_data
print("百零", *(c for c in LEVEL1 if len(stroke_data()[c][0]) <= 5), sep="")' > "$work/few.txt"
draw 71 50 --classes "$work/few.txt" --hard 0.6 1.8 --small 0.5 --pens 0.2
for part in 54:60000 91:40000 92:40000; do
    seed=${part%:*}
    [ -e "$work/r$seed" ] || python -m training.recombine "$real/hwdb63" "$real/hwdb25" "$real/scans" \
        --count "${part#*:}" --seed "$seed" --out "$work/r$seed"
done
python -m synthesis.papers --count 500 --seed 55 --out "$work/none55"
python -m synthesis.papers --count 300 --seed 95 --out "$work/none95"

# The weights shipped before, without their temperature and their class prior of the symbols. They
# are in the history only, which a shallow clone lacks.
before=5c46384c4d018f91fdd4a659511397750660978b
git cat-file -e $before 2> /dev/null || git fetch --unshallow
git cat-file blob $before > "$work/before.pt"
python checkpoint.py "$work/before.pt" "$work/raw.pt" --temperature 1.869 --class-prior symbols 1.0165

# train NAME OPTION...: what the runs share; a run that was interrupted goes on.
train() {
    local name=$1 resume=()
    shift
    [ ! -e "$work/$name/last.pt" ] || resume=(--resume)
    python train.py "$@" --teacher "$teacher" --teacher-input scale=200,margin=0 --logit-weight 10 \
        --misread-weight 0.3 --val-fraction 0.01 --dropout 0 --label-smoothing 0.05 --weight-decay 0.02 \
        --shift 0.03 --coarse 0.1 --erase 0 --remains 0.15 --out "$work/$name" "${resume[@]}"
}
# On a GPU, the teacher beside the student: 11 million views. Then on a core, twice, what was rare there.
train 1 --data "$work/s81@3" "$real/symreal@6" "$real/hwdb63@6" \
    --unlabelled "$work/r91@3" "$work/r92@3" "$real/hwdb25@6" "$real/scans@12" --outliers "$work/none95@6" \
    --teacher-live --init-from "$work/raw.pt" --epochs 10 --batch-size 2048 --lr 0.005 \
    --rotation 8 --shear 0.15 --scale 0.12 --elastic 1.5 --seed 8
train 2 --data "$work/s51" "$work/s53@2" "$work/s61@2" "$work/s62@2" "$work/s52@4" "$work/s71@3" \
    "$real/symreal@4" "$real/hwdb63@3" --unlabelled "$work/r54" "$real/hwdb25@3" "$real/scans@6" \
    --outliers "$work/none55@2" --init-from "$work/1/last.pt" --epochs 1 --batch-size 128 --lr 0.0008 \
    --rotation 5 --shear 0.1 --scale 0.1 --elastic 1 --seed 9
train 3 --data "$work/s53" "$work/s61" "$work/s62" "$work/s52@4" "$work/s71" "$real/symreal@4" \
    "$real/hwdb63" --unlabelled "$real/hwdb25@2" "$real/scans@4" --outliers "$work/none55@2" \
    --init-from "$work/1/last.pt" --epochs 1 --batch-size 128 --lr 0.0003 \
    --rotation 5 --shear 0.1 --scale 0.1 --elastic 1 --seed 9

# What the GPU taught is most of it; the others bring what it had not seen.
[ -e "$work/mean.pt" ] || {
    python checkpoint.py "$work/3/last.pt" "$work/two.pt" --average "$work/2/last.pt" 0.5
    python checkpoint.py "$work/two.pt" "$work/mean.pt" --average "$work/1/last.pt" 0.7
}
# Once more with all of it, the teacher beside the student on a core, and halves put together.
train 4 --data "$work/s51" "$work/s53@2" "$work/s61@2" "$work/s62" "$work/s52@3" "$work/s71@2" \
    "$real/symreal@4" "$real/hwdb63@4" --unlabelled "$work/r54" "$real/hwdb25@4" "$real/scans@8" \
    --outliers "$work/none55@2" --teacher-live --join 0.3 --compile --init-from "$work/mean.pt" \
    --epochs 1 --batch-size 128 --lr 0.0007 \
    --rotation 8 --shear 0.15 --scale 0.12 --elastic 1.5 --seed 10
python checkpoint.py "$work/4/last.pt" "$work/small80.pt" --average "$work/mean.pt" 0.7
