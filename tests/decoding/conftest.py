import sys
from pathlib import Path

# Under --import-mode=importlib a test cannot import its neighbours without this.
sys.path.insert(0, str(Path(__file__).parent))
