#!/usr/bin/env bash
# One prepared run on a graphics card, at most 8 minutes: training steps, predictions and a two-minute training,
# measured beside what 11_v100 predicts.
#   tools/gpu.sh [OUT]          everything, on a CUDA card; CSVs and summary.md in OUT ($OUT; else out/gpu)
#   tools/gpu.sh [OUT] --tiny   everything, small and on the processor: a rehearsal
#   tools/gpu.sh --list         what the parts measure; --only NAME,NAME runs some of them
# Nothing is downloaded. It runs in the first of $PYTHON, .venv, python3 whose PyTorch sees a card. Packages missing
# there can come as wheels in the folder $WHEELS. COMMIT names the source's commit where it is not a git checkout.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
case " $* " in
  *" --tiny "* | *" --list "* | *" --help "* | *" -h "*) want=True ;;
  *) want='torch.cuda.is_available()' ;;
esac

python=
for p in "${PYTHON:-}" .venv/bin/python python3 python3.13 python3.12 python3.11 python; do
  [ -n "$p" ] || continue
  if "$p" -c "import sys, torch; sys.exit(not (sys.version_info >= (3, 11) and $want))" 2>/dev/null; then
    python=$p
    break
  fi
done
if [ -z "$python" ]; then
  echo "no Python here (3.11 or newer) has a PyTorch$([ "$want" = True ] || echo ' that sees a CUDA card'):" \
    "name one, PYTHON=/path/to/python$([ "$want" = True ] || echo '; to rehearse without a card: --tiny')" >&2
  exit 2
fi

missing() {
  "$python" -c 'from importlib.util import find_spec
print(*(m for m in "numpy cv2 h5py PIL tqdm safetensors".split() if not find_spec(m)))'
}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "$(missing)" ] && compgen -G "${WHEELS:-wheels}/*.whl" >/dev/null; then
  site=$(mktemp -d) || exit 2
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install -q --no-index --no-deps --target "$site" "${WHEELS:-wheels}"/*.whl || exit 2
  export PYTHONPATH="$site:$PYTHONPATH"
fi
if [ -n "$(missing)" ]; then
  echo "$python lacks the packages: $(missing) (cv2 is opencv-python-headless, PIL is pillow)." \
    "Install them, or put their wheels into a folder and name it: WHEELS=folder" >&2
  exit 2
fi
"$python" tools/gpu.py "$@" &
child=$!
trap 'kill "$child" 2>/dev/null' TERM INT
wait "$child"
status=$?
[ "$status" -le 128 ] || wait "$child" 2>/dev/null # a signal woke this script: let the run clean up
exit "$status"
