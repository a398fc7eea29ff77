#!/usr/bin/env bash
# Trains the table's model-free methods on a GPU, on a bare machine without network and with little time:
#
#     benchmarks/gpu/table.sh --wheels wheels --minutes 15 --out "$OUT"
#
# Makes a virtual environment that sees the machine's own PyTorch, installs offdyn from the folder of wheels, builds the
# data, trains agent after agent, each as one population over all seeds and tasks of equal dimensions, and packs what has
# ended into at most 8 files of 16 MiB. The same command goes on where it stopped, as long as --work is kept. The order
# is that of `offdyn train --agents`: the methods that papers compare by, then cheaper ones first. docs/speed.md has more.
set -euo pipefail

usage() {
  cat <<'TEXT'
table.sh [options]
  --wheels DIR     folder of wheels to install from, that of offdyn among them
  --python CMD     a Python that has offdyn already: nothing is installed
  --minutes N      of the whole script (15); training gets what installing, data and packing (2) leave
  --track NAME     the tasks (core-6)
  --agents LIST    agents, with commas; those without rollouts in a learned model by default
  --seeds N        (5)
  --updates N      (100k)
  --precision P    of a GPU's products: tf32, bf16 or fp32 (tf32)
  --work DIR       environment, data and runs (/tmp/offdyn-table)
  --out DIR        where the files go ($OUT)
  --tiny           a minute on a CPU instead: cloning on one task, 20 updates
  --dry-run        print the commands and run none
TEXT
}

wheels='' python='' minutes=15 track=core-6 agents='' seeds=5 updates=100k precision=tf32 device=cuda
work=/tmp/offdyn-table out=${OUT:-} tiny='' dry='' task='' packing=120

refuse() { echo "table.sh: $*" >&2; exit 2; }

while [ $# -gt 0 ]; do
  case $1 in
    --tiny) tiny=1 ;;
    --dry-run) dry=1 ;;
    --help | -h) usage; exit 0 ;;
    --wheels | --python | --minutes | --track | --agents | --seeds | --updates | --precision | --work | --out)
      [ $# -gt 1 ] || refuse "$1 needs a value"
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    *) refuse "unknown option '$1'; table.sh --help lists them" ;;
  esac
  shift
done

[ -n "$out" ] || refuse 'name --out, where the files go'
[[ $minutes =~ ^[1-9][0-9]*$ ]] || refuse "--minutes '$minutes' is no whole number from 1 on"
[ -n "$wheels$python" ] || refuse 'name --wheels, a folder to install from, or --python, which has offdyn'
[ -z "$wheels" ] || [ -n "$dry" ] || [ -d "$wheels" ] || refuse "--wheels '$wheels' is no folder"
if [ -n "$tiny" ]; then
  device=cpu precision=fp32 agents=bc seeds=1 updates=20 packing=5 task=hopper-gravity-0.5-medium
fi

here=$(cd "$(dirname "$0")" && pwd)
end=$((SECONDS + 60 * minutes))

run() {
  echo "+ $*"
  [ -n "$dry" ] || "$@"
}

# Ends a command that takes too long as Ctrl-C would: what was trained so far is kept.
within() {
  local left=$1 status=0
  shift
  if [ -z "$dry" ] && [ "$left" -le 0 ]; then
    echo "table.sh: no time is left for: $*" >&2
    return 1
  fi
  run timeout --signal=INT --kill-after=30 "$left" "$@" || status=$?
  [ "$status" -eq 0 ] || echo "table.sh: ended with status $status: $*" >&2
  return "$status"
}

if [ -z "$python" ]; then
  python=$work/venv/bin/python
  if [ -n "$dry" ] || [ ! -x "$python" ]; then
    run python3 -m venv --system-site-packages "$work/venv"
    within $((end - SECONDS - packing)) "$python" -m pip install --quiet --no-index --find-links "$wheels" 'offdyn[agents]' ||
      { rm -rf "$work/venv"; exit 1; }
  fi
fi
[ -n "$dry" ] || mkdir -p "$work"
export OFFDYN_DATA_DIR=$work/data

if [ -z "$agents" ] && [ -z "$dry" ]; then
  agents=$("$python" -c 'from offdyn_agents.algorithms.registry import agent_class, names
from offdyn_agents.engine.rollouts import ModelBased
kinds = {name: agent_class(name) for name in names()}
print(",".join(name for name, kind in kinds.items() if not kind.diagnosis and not issubclass(kind, ModelBased)))')
fi
if [ -n "$task" ]; then
  # Cloning needs no source rows, and the target's are shipped.
  names=("$task")
else
  names=(--track "$track")
  within $((end - SECONDS - packing)) "$python" -m offdyn_envs.cli data build "${names[@]}" || exit 1
fi
# Agents that have not ended stay behind in --work; those that have are packed.
within $((end - SECONDS - packing)) "$python" -m offdyn_envs.cli train --agents "${agents:-<all without rollouts in a model>}" \
  "${names[@]}" --seeds "$seeds" --updates "$updates" --eval-every "$updates" --device "$device" --precision "$precision" \
  --quiet --no-judge --out "$work/runs" || true
run "$python" "$here/pack.py" "$work/runs" "$out"
