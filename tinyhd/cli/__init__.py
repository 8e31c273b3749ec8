from tinyhd.cli.main import main as main
