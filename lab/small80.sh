#!/usr/bin/env bash
# Make checkpoints/small80.pt from its predecessor: draw handwriting, distil, average.
# Continues when run again. Takes about 150 min on one core with bfloat16 support (210 images/s), plus
# 5 min on two cores for drawing.
#
#     bash lab/small80.sh TEACHER.onnx REAL HANDS FONTS DIGITS [WORK]
#
# TEACHER.onnx   the network of Xiao et al. 2017, see checkpoints/README.md
# REAL           real handwriting: hwdb63 and hwdb25 (.gnt files of training writers), symbols (a
#                tree of digits, letters and signs), hardpen and tablets (unlabelled characters, in
#                one class folder of any name)
# HANDS          pen trajectories of two writers, see synthesis/trajectories.py
# FONTS          one folder for each typeface of checkpoints/README.md; noto-sans-sc and noto-serif-sc
#                are drawn as print, too
# DIGITS         output of lab/digits.py
# WORK           output, about 4 GB (default: data/small80)
#
# The predecessor is that of commit 6051fe0; its own recipe is lab/small80.sh there.
set -euo pipefail
if [ $# -lt 5 ]; then
    sed -n '2,20s/^# \{0,1\}//p' "$0" >&2
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
draw symbols --classes symbols --writers 80 --seed 305 --hard 0.6 1.7 --small 0.2 --coarse 0.2 --neat 0.2
draw hands --hands "$hands" --writers 36 --seed 301 --hard 0.5 1.7 --pens 0.3 --small 0.08 --coarse 0.08
draw printed --writers 14 --seed 302 --hard 0.5 1.7 --pens 0.3 --small 0.1 --coarse 0.08 --neat 0.12 \
    --fonts "$fonts" --font-share 0.45
draw validation --hands "$hands" --writers 2 --seed 900 --hard 0.8 1.2
python -m lab.papers --count 300 --seed 307 --out "$work/none"
# Nearly undistorted print, so that printed frames (因, 图) do not count as lines of the paper.
mkdir -p "$work/print-fonts"
cp -r "$fonts/noto-sans-sc" "$fonts/noto-serif-sc" "$work/print-fonts"
draw print --writers 8 --seed 309 --hard 0 0.3 --pens 0.3 --fonts "$work/print-fonts" --font-share 1
# 八 as the Japanese write it, with a level start; the others from the stroke data.
mkdir -p "$work/strokes"
gzip > "$work/strokes/eight.jsonl.gz" << END
{"character": "八", "strokes": [[[38,28],[30,60],[8,92]],[[40,12],[64,12],[70,50],[94,90]]]}
{"character": "八", "strokes": [[[36,30],[33,60],[15,90]],[[34,14],[62,10],[68,60],[96,94]]]}
{"character": "八", "strokes": [[[30,35],[25,62],[8,88]],[[36,22],[62,20],[66,52],[80,78],[96,90]]]}
{"character": "八", "strokes": [[[30,45],[24,66],[10,88]],[[25,20],[58,16],[68,60],[92,92]]]}
{"character": "八", "strokes": [[[36,32],[30,58],[10,88]],[[42,15],[54,13],[65,50],[90,88]]]}
{"character": "八", "strokes": [[[40,26],[36,60],[18,94]],[[46,10],[68,12],[72,55],[84,86],[96,84]]]}
{"character": "八", "strokes": [[[26,40],[8,90]],[[28,24],[60,14],[64,40],[90,90]]]}
END
printf '八入几人千干于十一二七九六' > "$work/eight.txt"
draw eight --hands "$work/strokes" --classes "$work/eight.txt" --writers 300 --seed 308 --hard 0.6 1.6 \
    --pens 1 --neat 0.1
# Simple characters in pens of all widths: 八, 千, 九 of thin pens are the weakest.
cat > "$work/few.txt" << END
一二三四五六七八九十百千万亿零人入几力刀刁乃儿又了丁厂卜于干土士工王主玉上下口日曰目白自田由甲申
中大太天夫木本末未不小少川山己已乙飞子才寸寻个久及丸凡勺么义门卫也习乡马云开元无专尤车友牛手毛气
升长片化仇币仍斤爪反介父从今凶分公仓月氏勿欠风丹匀乌文方火为斗忆订计户认心尺引丑巴孔队办以允予劝
双书幻示击正去甘世古节可丙左右石布龙平灭东占业旧帅归且旦叶号电史只央兄叼叫另生失禾丘付仗代仙仔他
斥瓜乎丛令用甩印句匆册犯外处冬鸟务包饥立市半汁汇头宁它讨写让礼训必议讯记永司尼民出辽奶奴加召皮边
发孕圣对台矛
END
draw few --classes "$work/few.txt" --writers 60 --seed 306 --hard 0.7 1.8 --pens 1 --neat 0.2

# The predecessor without its temperature and class prior; a shallow clone lacks it.
before=b6ecde6fd0b16a1562eff13e31a637b59bd13993
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
        --batch-size 512 --compile --rotation 8 --shear 0.15 --scale 0.12 --elastic 1.5 --leftovers 0.15 \
        --val-data "$work/validation" --epochs 1 --out "$work/$name" ${resume[@]+"${resume[@]}"}
}
# The first run of the shipped weights was stopped at step 844 of 2,381, with the average of then.
train first --init-from "$work/raw.pt" --lr 0.001 --seed 41 \
    --data "$work/hands@4" "$work/printed@4" "$work/few@4" "$work/eight@4" "$work/symbols@4" \
    "$digits@3" "$real/symbols@12" "$real/hwdb63@4" --outliers "$work/none@6" \
    --unlabelled "$real/hwdb25@12" "$real/hardpen@20" "$real/tablets@20"
train second --init-from "$work/first/last.pt" --lr 0.0007 --seed 43 \
    --data "$work/hands" "$work/printed@2" "$work/print@2" "$work/few@3" "$work/eight@2" \
    "$work/symbols@3" "$digits@2" "$real/symbols@8" "$real/hwdb63@3" --outliers "$work/none@4" \
    --unlabelled "$real/hwdb25@8" "$real/hardpen@12" "$real/tablets@12"
python checkpoint.py "$work/second/best.pt" "$work/small80.pt" --average "$work/raw.pt" 0.65
