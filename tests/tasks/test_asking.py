"""How images are divided among the threads that decode them."""

from PIL import Image

from tasks.asking import portions
from tasks.requests import Picture


def test_a_thread_gets_many_small_images_or_a_large_one() -> None:
    sizes = [2**23, 2**22] + [96 * 96] * 200 + [2**22] + [512 * 512] * 20
    pictures = {str(place): Picture(str(place), Image.Image, pixels) for place, pixels in enumerate(sizes)}
    found = portions(pictures, pictures)
    assert [image_id for portion in found for image_id in portion] == list(pictures)
    assert [len(portion) for portion in found] == [1, 1, 201, 16, 4]
    assert portions(pictures, []) == []
