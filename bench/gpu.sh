#!/usr/bin/env bash
# Everything that needs a GPU, unattended: correctness first, then speed.
#
#   bench/gpu.sh [OUTDIR] [STAGE ...]        stages: kernels suite paired channel lerp stats
#
# Each stage is stopped after 8 minutes. OUTDIR gets environment.json, stages.json, and a log and
# results for each stage. PYTHON names the interpreter (default: .venv/bin/python, else python3).
set -uo pipefail
cd "$(dirname "$0")/.."

out=${1:-bench/results/gpu-$(date +%F)}
shift || true
stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(kernels suite paired channel lerp stats)
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || command -v "$python" >/dev/null || python=python3
mkdir -p "$out"
export PYTHONPATH=. PYTHONUNBUFFERED=1
unset TRITON_INTERPRET

"$python" - "$out/environment.json" <<'END' || exit 2
import json, subprocess, sys
import torch, triton
if not torch.cuda.is_available():
    sys.exit("bench/gpu.sh needs a GPU, and this machine has none")
git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
facts = {
    "device": torch.cuda.get_device_name(),
    "torch": torch.__version__,
    "triton": triton.__version__,
    "cuda": torch.version.cuda,
    "hip": torch.version.hip,
    "commit": git.stdout.strip(),
}
with open(sys.argv[1], "w") as file:
    json.dump(facts, file, indent=1)
END

rows=() failed=0
run() { # run STAGE COMMAND...
  local name=$1 from=$SECONDS status
  shift
  echo "== $name: $*"
  timeout 480 "$@" >"$out/$name.log" 2>&1
  status=$?
  tail -n 3 "$out/$name.log"
  rows+=("{\"stage\": \"$name\", \"status\": $status, \"seconds\": $((SECONDS - from))}")
  (IFS=,; echo "[${rows[*]}]") >"$out/stages.json"
  return $status
}
bench() { # bench STAGE OP
  run "$1" "$python" -m pytest "bench/bench_$2.py" -q -o python_files='bench_*.py' -o addopts= \
    -o filterwarnings= -o timeout=0 --import-mode=importlib --benchmark-json="$out/$1.json"
}
tests() { # tests STAGE PATH...
  run "$1" "$python" -m pytest -q -x "${@:2}" --junitxml="$out/$1.xml"
}

for stage in "${stages[@]}"; do
  # A wrong kernel gets no time.
  case $stage in
    kernels) tests kernels tests/kernels tests/test_ops.py tests/reference || exit 1 ;;
    suite) tests suite tests || failed=1 ;;
    paired) bench paired paired_moments || failed=1 ;;
    channel) bench channel channel_moments || failed=1 ;;
    lerp) bench lerp lerp_rescale || failed=1 ;;
    stats) run stats "$python" bench/imagenet_stats.py --steps 30 --json "$out/stats.json" || failed=1 ;;
    *) echo "unknown stage: $stage" >&2; exit 2 ;;
  esac
done
exit $failed
