#!/usr/bin/env bash
# Everything that needs a GPU, unattended: correctness first, then speed.
#
#   bench/gpu.sh [OUTDIR] [STAGE ...]       all of it: bench/gpu.sh
#
# Stages, in the order in which they are best run:
#   kernels   the kernels' tests; a failure ends everything, for a wrong kernel gets no time
#   errors    errors against float64 by precision, offset and samples
#   ceilings  what a copy, products and an empty launch reach on this GPU
#   paired joint diagonal channel lerp    the benches: every provider side by side
#   stats     compute_stats of a ResNet50 pair beside two forward passes
#   paper     the paper's experiments at full size, the most telling first, for PAPER_MINUTES
#   tune_paired tune_channel tune_lerp    launch configurations, as entries for launch_config
#   suite     all tests
#
# Each stage (but `paper`) is stopped after 8 minutes, and keeps what it has by then. OUTDIR (default
# bench/results/gpu-DATE) gets run.json (device, versions, state of every stage), log.txt, a result
# file for each stage, and DEVICE-DATE.json with the rows of all benches, which belongs into
# bench/results and from there into docs/performance.md (python bench/report.py). `paper` puts result
# files into OUTDIR/paper, which belong into bench/results/paper (python -m bench.paper.report), and
# the networks that experiments share into OUTDIR/endpoints, as float16 in pieces under 16 MiB
# (python -m bench.paper.pieces unpack). It needs CIFAR-10, in $REPAIR_DATA; all networks stay in
# runs/paper, so that a second call goes on where the first one ended.
#
# Environment: PYTHON, the interpreter (.venv/bin/python, else python3); LIMIT, seconds for all
# stages together: later stages are cut short or left out; PAPER_MINUTES (7) and PAPER_OPTIONS, more
# options of `python -m bench.paper`, such as "--pairs 2".
#
# A run of under ten minutes, packed into one file:
#   LIMIT=560 bench/gpu.sh gpu kernels errors ceilings paired; tar czf gpu.tgz gpu
# The paper's experiments in ten minutes:
#   PAPER_MINUTES=8.5 bench/gpu.sh gpu paper; tar czf gpu.tgz --exclude=endpoints gpu
set -uo pipefail
cd "$(dirname "$0")/.."

all=(kernels errors ceilings paired joint diagonal channel lerp stats paper
  tune_paired tune_channel tune_lerp suite)
case ${1:-} in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;; esac
out=${1:-bench/results/gpu-$(date +%F)}
shift || true
stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=("${all[@]}")
for stage in "${stages[@]}"; do
  [[ " ${all[*]} " == *" $stage "* ]] || {
    echo "unknown stage: $stage; the stages are ${all[*]}" >&2
    exit 2
  }
done
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python3
export PYTHONPATH=. PYTHONUNBUFFERED=1
unset TRITON_INTERPRET

"$python" - <<'END' || exit 2
import sys

try:
    import torch
    import triton  # noqa: F401
except ImportError as error:
    sys.exit(f"bench/gpu.sh needs PyTorch and Triton in {sys.executable}: {error}")
if not torch.cuda.is_available():
    sys.exit("bench/gpu.sh needs a GPU, and this machine has none")
END

# What is not there is said, and what can do without it runs.
has() { "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"; }
for module in numpy scipy safetensors jaxtyping tqdm pytest pytest_benchmark pytest_timeout \
  hypothesis beartype torchvision; do
  has $module || echo "missing: $module"
done
test_options=(-q -p no:cacheprovider -o filterwarnings= --benchmark-disable)
has beartype || {
  echo "without beartype the tests run, but without their run-time checks of shapes"
  test_options+=(--confcutdir=tests -o "addopts=--import-mode=importlib --doctest-modules")
}
has pytest_timeout || test_options+=(-o timeout_method=thread)
parallel=()
has xdist && parallel=(-n 8 --dist loadfile)

mkdir -p "$out"
out=$(cd "$out" && pwd)
log=$out/log.txt
rows=() failed=0
note() { # what run.json holds: device, versions, and the stages so far
  (IFS=,; echo "[${rows[*]}]") | "$python" bench/run_facts.py "$out/run.json" "${stages[@]}"
}
run() { # run STAGE COMMAND...
  local name=$1 from=$SECONDS status limit=${stage_limit:-480}
  shift
  if [ -n "${LIMIT:-}" ]; then
    limit=$((LIMIT - SECONDS < limit ? LIMIT - SECONDS : limit))
    [ $limit -gt 10 ] || { echo "== $name: no time left"; return 1; }
  fi
  echo "== $name: $*" | tee -a "$log"
  # An interrupt, not a kill: benches then write what they have measured.
  timeout --signal=INT --kill-after=30 $limit "$@" >"$out/stage.log" 2>&1
  status=$?
  cat "$out/stage.log" >>"$log"
  tail -n 4 "$out/stage.log"
  rm -f "$out/stage.log"
  rows+=("{\"stage\": \"$name\", \"status\": $status, \"seconds\": $((SECONDS - from))}")
  note
  return $status
}
bench() { # bench STAGE OP [-k EXPRESSION]
  has pytest_benchmark || { echo "== $1: left out, pytest-benchmark is missing"; return 1; }
  run "$1" "$python" -m pytest "bench/bench_$2.py" "${@:3}" -q -p no:cacheprovider \
    -o python_files='bench_*.py' -o addopts= -o filterwarnings= -o timeout=0 \
    --import-mode=importlib --confcutdir=bench --benchmark-json="$out/$1.json"
}
tests() { # tests STAGE PATH...
  has pytest || { echo "== $1: left out, pytest is missing"; return 1; }
  run "$1" "$python" -m pytest "${test_options[@]}" "${@:2}"
}
paper() { # A minute more than it gives itself: it stops after an epoch, or after a way to merge.
  local minutes=${PAPER_MINUTES:-7} stage_limit
  stage_limit=$("$python" -c "print(round(60 * $minutes) + 60)")
  # shellcheck disable=SC2086
  run paper "$python" -m bench.paper --size full --minutes "$minutes" --out "$out/paper" ${PAPER_OPTIONS:-}
  local status=$?
  "$python" -m bench.paper.pieces pack "$out/endpoints" --recipes cifar10_resnet20x4 cifar10_resnet18
  # 3: there was no time left for some, or no data; what was measured is there.
  [ $status -eq 0 ] || [ $status -eq 3 ]
}
tune() { # tune STAGE OP...
  run "$1" "$python" bench/tune.py --op "${@:2}" --json "$out/$1.json" --total 440
}

for stage in "${stages[@]}"; do
  case $stage in
    kernels) tests kernels -x tests/kernels tests/test_ops.py tests/reference || exit 1 ;;
    errors) run errors "$python" bench/error_table.py --json "$out/errors_gpu.json" ;;
    ceilings) run ceilings "$python" bench/ceilings.py --json "$out/ceilings.json" ;;
    paired) bench paired paired_moments -k cross ;;
    joint) bench joint paired_moments -k joint ;;
    diagonal) bench diagonal paired_moments -k diagonal ;;
    channel) bench channel channel_moments ;;
    lerp) bench lerp lerp_rescale ;;
    stats) run stats "$python" bench/imagenet_stats.py --steps 30 --json "$out/stats.json" ;;
    paper) paper ;;
    tune_paired) tune tune_paired paired_moments ;;
    tune_channel) tune tune_channel channel_moments ;;
    tune_lerp) tune tune_lerp lerp_rescale ;;
    suite) tests suite "${parallel[@]}" tests ;;
  esac || failed=1
done
"$python" bench/collect.py "$out"
exit $failed
