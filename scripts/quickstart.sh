#!/usr/bin/env bash
# From nothing to radio maps of unseen cities: set up .venv, simulate cities, train the tiny VAE and the tiny latent
# diffusion (64 px), score them and two references, draw a gallery. Run it again to resume where it stopped.
#
#   bash scripts/quickstart.sh                              simulated cities, nothing to download but packages
#   DATA=path/to/RadioMapSeer bash scripts/quickstart.sh    your own data instead -> runs/quickstart_data
#   OUT=runs/other bash scripts/quickstart.sh               another folder for the results
set -euo pipefail
for name in DATA OUT; do # relative paths start where the command was given
    case ${!name:-/} in /*) ;; *) printf -v "$name" %s "$PWD/${!name}" ;; esac
done
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/quickstart${DATA:+_data}}
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-2000} # threads that wait give their core to other programs
START=$(date +%s)
bash scripts/setup.sh
PY=.venv/bin/python
SETUP=$(date +%s)

echo "== first, a map of the released model"
$PY sample.py --buildings examples/town.png --tx 182,57 --output_folder "$OUT/first"
echo "see $OUT/first/town_182_57_figure.png; now a model of your own"
if [ -z "${DATA:-}" ]; then
    DATA=$OUT/data
    echo "== 1/4 simulating cities"
    $PY scripts/make_dataset.py --out "$DATA" --cities 500 --tx 3 --seed 1
else
    echo "== 1/4 using $DATA: up to 3,000 maps of its train split to train on, 150 of its test split to score"
fi
$PY -c 'import sys; from data import open_tree; from denoising_diffusion_pytorch.cli import run
run(lambda: print(*(open_tree(sys.argv[1], split=split).report for split in ("train", "val", "test")), sep="\n"))' "$DATA"
TRAIN=(data.train.data_root="$DATA" data.train.max_samples=3000)
echo "== 2/4 training the autoencoder"
$PY train_vae.py --cfg configs/tiny_vae.yaml "${TRAIN[@]}" trainer.results_folder="$OUT/vae"
echo "== 3/4 training the latent diffusion"
$PY train_cond_ldm.py --cfg configs/tiny_ldm.yaml "${TRAIN[@]}" trainer.results_folder="$OUT/ldm" \
    first_stage_config.ckpt_path="$OUT/vae"
echo "== 4/4 scoring cities that were never trained on"
$PY scripts/evaluate.py --ckpt "$OUT/ldm" --data "$DATA" --split test --maps 150 --json "$OUT/scores.json" \
    --gallery "$OUT/gallery.png" --references --reconstruction
END=$(date +%s)
echo "set up in $((SETUP - START)) s, the rest took $((END - SETUP)) s"
echo "see $OUT/gallery.png (truth | sampled | error) and $OUT/scores.json; training curves: tensorboard --logdir $OUT"
