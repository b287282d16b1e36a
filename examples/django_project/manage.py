"""A help desk whose tickets are summarised by Claude.

pip install '.[django]' in the clone, then, in this directory:

    python manage.py migrate && python manage.py createsuperuser
    CLAUDE_THROTTLE_TESTING=1 python manage.py runserver          # no key, no call: canned answers
    ANTHROPIC_API_KEY=sk-ant-… python manage.py runserver         # http://127.0.0.1:8000/admin/
    python manage.py summarise_tickets                            # those that have none, by batch
    python manage.py claude_throttle status                       # or limits, run, serve-fake
    python manage.py check --deploy --tag claude_throttle
    python manage.py test
    gunicorn helpdesk.wsgi                                        # with gunicorn.conf.py
"""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "helpdesk.settings")
    execute_from_command_line(sys.argv)
