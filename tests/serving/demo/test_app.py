from gradio_client import Client, handle_file

from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.serving.demo import build_demo
from hf_asr.serving.demo.translations import ENGLISH


def test_user_can_enter_a_second_checkpoint(served, checkpoint, speech):
    client = Client(served.address, verbose=False)
    page = client.predict(handle_file(speech), False, str(checkpoint), api_name="/compare")
    assert page.count("<h4>") == 2 and ENGLISH["same"] in page
    page = client.predict(handle_file(speech), False, "/nowhere/at/all", api_name="/compare")
    assert "/nowhere/at/all does not exist" in page
    assert ENGLISH["missing_second"] in client.predict(handle_file(speech), False, " ", api_name="/compare")


def inputs(page) -> dict[str, int]:
    return {fn.api_name: len(fn.inputs) for fn in page.fns.values() if fn.api_name in ("transcribe", "compare")}


def test_user_can_enter_a_checkpoint_only_if_allowed(recognizer):
    assert inputs(build_demo(recognizer)) == {"transcribe": 2}
    assert inputs(build_demo(recognizer, second=recognizer)) == {"transcribe": 2, "compare": 2}
    assert inputs(build_demo(recognizer, may_choose_second=True)) == {"transcribe": 2, "compare": 3}


def test_user_can_enter_hotwords_only_for_a_beam_search(recognizer):
    arguments = DecodingArguments(decoding="beam")
    beam = Recognizer(recognizer.model, recognizer.processor, arguments=arguments)
    assert (inputs(build_demo(recognizer)), inputs(build_demo(beam))) == ({"transcribe": 2}, {"transcribe": 3})
