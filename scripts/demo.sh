#!/usr/bin/env bash
# Offline demo on simulated promoters: prepare, train, score, load without this package installed, predict.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"  # waiting threads free their cores
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 PYTHONWARNINGS=ignore
started=$SECONDS
rm -rf demo
mkdir -p demo/stranger

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

echo "1. Simulate 20,000 promoters with planted yeast motifs, and turn them into memory-mapped Arrow"
run python scripts/prepare_data.py --source simulate --num_sequences 20000 --strand_length 80 --output demo/data

echo
echo "2. Train a tiny model (two epochs)"
run python scripts/train.py configs/cpu_tiny.yaml --dataset demo/data --output_dir demo/run

echo
echo "3. Score it on 2,000 promoters of another seed, beside ridge regression on k-mer counts"
run python scripts/simulate.py demo/test.parquet --num_sequences 2000 --seed 1
run python scripts/evaluate.py --model demo/run/final --table demo/test.parquet --value_column expression \
    --baseline_train demo/data --output demo/score.json --plots demo/plots

echo
echo "4. Load it without this package installed: the folder's own code, another working directory"
(
    cd demo/stranger
    run python - <<'PYTHON'
import sys

sys.modules["modeling_macaron"] = sys.modules["tokenization"] = None  # hide this package

from transformers import pipeline

predict = pipeline("promoter-expression", model="../run/final", trust_remote_code=True)
plain = "ACGGTCAGCTTGCAGTCCTA" * 4
sites = plain[:20] + "CCGGGTAA" + plain[28:62] + "TGACTCA" + plain[69:]
for name, sequence in (("no site", plain), ("Reb1 and Gcn4 sites", sites)):
    print(f"{name:20s}{predict(sequence)['expression']:6.2f}")
PYTHON
)

echo
echo "5. Predict a file"
run python scripts/predict.py demo/run/final demo/test.parquet demo/predictions.parquet

cat <<EOT

Done in $((SECONDS - started)) s.
  demo/data                 prepared data set, and report.json on every row
  demo/run/final            the model: a folder for the Hub, with its model card README.md
  demo/score.json, plots/   correlations of the model and the baseline, scatter plot
  demo/predictions.parquet  the predictions
EOT
