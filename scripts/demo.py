"""A web page that predicts while you draw: paint a city, place transmitters, compare the model with the simulator.

    pip install -r requirements-demo.txt
    python scripts/demo.py [--ckpt RESULTS] [--port 7860]

Serves http://127.0.0.1:7860 to this machine only; `--host 0.0.0.0` serves everyone who can reach it.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.crop import SIDE
from data.simulator.scenes import random_scenes
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.errors import ConfigError
from denoising_diffusion_pytorch.latent_diffusion import LatentDiffusion
from denoising_diffusion_pytorch.predictor import Predictor

try:
    from waitress import serve

    from demo.messages import layers_of
    from demo.server import LOCAL_HOSTS, MAX_UPLOAD, MAX_WAITING, create_app
except ImportError as error:
    raise SystemExit(f"error: {error}; the web page needs: pip install -r requirements-demo.txt") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", help="checkpoint or results folder of train_cond_ldm.py; default: the released model")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (%(default)s)")
    arguments = parser.parse_args()
    if not 0 <= arguments.port < 2**16:
        raise ConfigError(f"--port {arguments.port}: must lie within 0 .. 65535")
    predictor = Predictor(arguments.ckpt)
    if not isinstance(predictor.model, LatentDiffusion):
        raise ConfigError(f"--ckpt {arguments.ckpt}: is a regression; the page shows samples of a latent diffusion")
    if predictor.side != SIDE:
        raise ConfigError(f"--ckpt {arguments.ckpt}: is for maps of {predictor.side} m; the page shows {SIDE} m")
    layers_of(*predictor.predict(random_scenes(0)))  # the first prediction compiles; done before anyone waits
    print(f"http://{arguments.host}:{arguments.port} (Ctrl-C ends it)", flush=True)
    app = create_app(predictor, LOCAL_HOSTS if arguments.host in LOCAL_HOSTS else None)
    threads, most = 4 + MAX_WAITING, 4 * MAX_UPLOAD  # the application refuses what is above MAX_UPLOAD, with a reason
    try:
        options = {"threads": threads, "max_request_body_size": most, "channel_request_lookahead": 1}  # sees who left
        serve(app, host=arguments.host, port=arguments.port, **options)
    except OSError as error:
        raise ConfigError(f"--host {arguments.host} --port {arguments.port}: {error}; choose another port") from error


if __name__ == "__main__":
    run(main)
