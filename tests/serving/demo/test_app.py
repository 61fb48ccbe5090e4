from gradio_client import Client, handle_file

from hf_asr.serving.demo import build_demo
from hf_asr.serving.demo.translations import ENGLISH


def test_user_can_enter_a_second_checkpoint(served, checkpoint, speech):
    client = Client(served.address, verbose=False)
    page = client.predict(handle_file(speech), False, str(checkpoint), api_name="/compare")
    assert page.count("<h4>") == 2 and ENGLISH["same"] in page
    page = client.predict(handle_file(speech), False, "/nowhere/at/all", api_name="/compare")
    assert "/nowhere/at/all does not exist" in page
    assert ENGLISH["missing_second"] in client.predict(handle_file(speech), False, " ", api_name="/compare")


def test_user_can_enter_a_checkpoint_only_if_allowed(recognizer):
    def inputs(page) -> dict:
        return {fn.api_name: len(fn.inputs) for fn in page.fns.values() if fn.api_name in ("transcribe", "compare")}

    assert inputs(build_demo(recognizer)) == {"transcribe": 2}
    assert inputs(build_demo(recognizer, second=recognizer)) == {"transcribe": 2, "compare": 2}
    assert inputs(build_demo(recognizer, may_choose_second=True)) == {"transcribe": 2, "compare": 3}
