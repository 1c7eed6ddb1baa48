#!/usr/bin/env bash
# Make checkpoints/small80.pt from its predecessor: draw handwriting, distil, average.
# Continues when run again. Takes about 90 min on one core without bfloat16 support, plus 8 min on two
# cores for drawing.
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
# WORK           output, about 4 GB (default: data/small80)
#
# The predecessor is that of commit c291555; its own recipe is lab/small80.sh there.
set -euo pipefail
if [ $# -lt 5 ]; then
    sed -n '2,18s/^# \{0,1\}//p' "$0" >&2
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
draw symbols --classes symbols --writers 60 --seed 205 --hard 0.6 1.7 --small 0.2 --coarse 0.2 --neat 0.2
draw hands --hands "$hands" --writers 24 --seed 201 --hard 0.5 1.7 --pens 0.3 --small 0.08 --coarse 0.08
draw printed --writers 10 --seed 202 --hard 0.5 1.7 --pens 0.3 --small 0.1 --coarse 0.08 --neat 0.12 \
    --fonts "$fonts" --font-share 0.45
draw validation --hands "$hands" --writers 2 --seed 900 --hard 0.8 1.2
python -m lab.papers --count 300 --seed 207 --out "$work/none"
# Simple characters in pens of all widths: 八, 千, 九 of thin pens are the weakest.
cat > "$work/few.txt" << END
一二三四五六七八九十百千万亿零人入几力刀刁乃儿又了丁厂卜于干土士工王主玉上下口日曰目白自田由甲申
中大太天夫木本末未不小少川山己已乙飞子才寸寻个久及丸凡勺么义门卫也习乡马云开元无专尤车友牛手毛气
升长片化仇币仍斤爪反介父从今凶分公仓月氏勿欠风丹匀乌文方火为斗忆订计户认心尺引丑巴孔队办以允予劝
双书幻示击正去甘世古节可丙左右石布龙平灭东占业旧帅归且旦叶号电史只央兄叼叫另生失禾丘付仗代仙仔他
斥瓜乎丛令用甩印句匆册犯外处冬鸟务包饥立市半汁汇头宁它讨写让礼训必议讯记永司尼民出辽奶奴加召皮边
发孕圣对台矛
END
draw few --classes "$work/few.txt" --writers 60 --seed 206 --hard 0.7 1.8 --pens 1 --neat 0.2

# The predecessor without its temperature and class prior; a shallow clone lacks it.
before=403f4b3807fd3954b3030146a3505e3690ab1b15
git cat-file -e $before 2> /dev/null || git fetch --unshallow
git cat-file blob $before > "$work/before.pt"
python checkpoint.py "$work/before.pt" "$work/raw.pt" --temperature 1.8939 --class-prior symbols 3.0624

# train NAME OPTION...: what the runs share; an interrupted run continues.
train() {
    local name=$1 resume=()
    shift
    [ ! -e "$work/$name/last.pt" ] || resume=(--resume)
    python train.py "$@" --teacher "$teacher" --teacher-scale 200 --teacher-margin 0 --logit-weight 10 \
        --dropout 0 --label-smoothing 0.05 --weight-decay 0.02 --shift 0.03 --coarse 0.1 \
        --rotation 8 --shear 0.15 --scale 0.12 --elastic 1.5 --leftovers 0.15 \
        --val-data "$work/validation" --epochs 1 --out "$work/$name" ${resume[@]+"${resume[@]}"}
}
train third --init-from "$work/raw.pt" --lr 0.0005 --seed 21 \
    --data "$work/hands" "$work/printed" "$work/few" "$work/symbols" "$digits" \
    "$real/symbols" "$real/hwdb63" --outliers "$work/none@2" \
    --unlabelled "$real/hwdb25@4" "$real/hardpen@10" "$real/tablets@10"
python checkpoint.py "$work/third/last.pt" "$work/small80.pt" --average "$work/raw.pt" 0.6
