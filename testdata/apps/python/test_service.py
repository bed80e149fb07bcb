import unittest

from service import app


class Hull(unittest.TestCase):
    def test_two_strakes_a_plank(self):
        self.assertEqual(app.test_client().get("/hull/3").get_json(), {"planks": 3, "strakes": 6})

    def test_not_a_number(self):
        self.assertEqual(app.test_client().get("/hull/three").status_code, 404)
