"""Who reads an attribute."""

from normsmith.layers.callers import is_called_by


class Layer:
    @property
    def asked(self):
        return is_called_by("convert_sync")


def test_the_next_callers_are_asked_and_no_farther_ones():
    def convert_sync_batchnorm(layer, depth=0):
        def go_on(depth):
            return go_on(depth - 1) if depth else layer.asked

        return go_on(depth)

    assert convert_sync_batchnorm(Layer())
    assert not convert_sync_batchnorm(Layer(), depth=30)
    assert not Layer().asked
